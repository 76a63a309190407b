"""What runs on a device: spaces, bundles, runtimes, jobs and measuring. Needs numpy and never torch."""
