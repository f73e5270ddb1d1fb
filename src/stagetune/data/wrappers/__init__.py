"""What is done to the images of a source: each module is a setting of `data`. None imports torch at its top."""
