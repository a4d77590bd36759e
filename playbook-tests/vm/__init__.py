"""Virtual machines with systemd and cgroup v2, in software emulation, for tests of the whole product."""
