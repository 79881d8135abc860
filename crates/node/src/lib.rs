//! Many groups on one machine: events in, effects out.
