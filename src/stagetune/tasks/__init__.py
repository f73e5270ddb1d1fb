"""The LightningModules: what a batch costs, and what validation and test measure."""
