//! systemd, through systemctl.
