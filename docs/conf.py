"""How Sphinx builds the documentation: make docs. Nothing is fetched while it does."""

from stagetune import __version__

project = "stagetune"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3  # a link to a heading works as it does where the pages are read as files
highlight_language = "none"  # blocks that name no language are commands and their output

default_role = "code"  # what stands in single backticks in a docstring
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_use_ivar = True  # the attributes of a class as one list
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90

nitpicky = True  # a name of ours that leads nowhere is a warning; those of others are not looked up
nitpick_ignore_regex = [
    ("py:.*", r"(collections|lightning|numpy|os|pathlib|PIL|torch)\..*"),
    ("py:class", r"stagetune\.(schedule\.model\.Model|config\.schema\.Config)"),  # not public
]

html_theme = "furo"
html_title = f"stagetune {version}"
html_theme_options = {"light_css_variables": {"code-font-size": "75%"}}  # our lines have up to 118 characters
html_copy_source = False
html_show_copyright = False
