"""From containerd's bundle to a guest: its root file system, its volumes, its module, its streams."""
