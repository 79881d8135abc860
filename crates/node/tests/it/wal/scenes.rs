//! The ways in which a log can lose what it promised, one by one.
