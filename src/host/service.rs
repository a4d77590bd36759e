//! Services without systemd: started in the background, found again by pidfile.
