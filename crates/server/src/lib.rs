//! The shell: lanes, disk, peers, clients, control thread.
