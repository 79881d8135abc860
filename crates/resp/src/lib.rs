//! The Redis protocol: codec and the connection as a state machine.
