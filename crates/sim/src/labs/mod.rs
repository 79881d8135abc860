//! The scenarios of the 6.824 course: consensus alone, on a network and disks that fail.
