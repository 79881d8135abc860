//! Consensus for one group: Raft as a pure state machine.
