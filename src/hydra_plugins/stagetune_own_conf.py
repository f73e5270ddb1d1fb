"""./conf beside our own settings, where Hydra looks for such plugins."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from stagetune.shipped import CONF, own_conf


class OwnConf(SearchPathPlugin):
    """Adds the ./conf of whoever runs a command after ours, so that it adds options and experiments.

    Only to our own command: Hydra asks every plugin that is installed, whatever application runs.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        own = own_conf()
        main = [entry.path for entry in search_path.get_path() if entry.provider == "main"]
        if own is not None and main in ([str(CONF)], [f"file://{CONF}"]):
            search_path.append("own", str(own))
