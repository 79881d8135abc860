//! Numbers of the shard manager as types of their own. None of them is ever given out twice.

use kvorum_base::counter;

pub use kvorum_base::MoveId;

counter!(
    /// A config: which shard should have which slot. The first is 0, each change makes the next.
    ConfigNumber
);
counter!(
    /// An order to a group or node. Grows with every order, whoever it is for.
    OrderNumber
);
counter!(
    /// Who numbers its commands: the index of the entry that opened the issuer.
    IssuerId
);
