"""Images and how they reach the model: sources, splits, samplers, transforms, the datamodule."""
