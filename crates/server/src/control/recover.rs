//! The shard manager is recovered: the one order that it cannot give itself.
//!
//! It goes to the node whose replica is to go on, and names it, so that no other takes it for its own. It
//! also names the term in which that replica was looked at: given again later, when the replica has gone on,
//! it is refused.

use kvorum_base::Term;
use kvorum_cluster::Reply;
use kvorum_node::Control;
use serde::{Deserialize, Serialize};

use super::Shared;
use super::cluster::{Carried, Failure, unexpected};

/// The path for it.
pub const PATH: &str = "/api/v1/admin/recover-manager";

/// The shard manager is to go on with one replica alone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RecoverManager {
    /// The node that has it.
    pub node: u64,
    /// The highest term that was seen at any replica.
    pub term: u64,
}

impl Shared {
    /// Has the replica of the shard manager here go on alone. It has when it leads.
    ///
    /// # Errors
    /// If it cannot be, or need not be.
    pub async fn recover_manager(&self, asked: &RecoverManager) -> Result<Carried, Failure> {
        let status = self.status_now().await;
        let own = status.map(|(_, status)| status.node);
        if own != Some(asked.node) {
            let node = asked.node;
            return Err(Failure::Refused(format!("this is not node {node}")));
        }
        let term = Term(asked.term);
        let control = |token| Control::RecoverManager { token, term };
        match self.answer_to(control).await? {
            Reply::Done => Ok(Carried {
                text: "the shard manager goes on here".to_owned(),
            }),
            Reply::Refused(refusal) => Err(Failure::Refused(format!("refused: {refusal}"))),
            other => Err(unexpected(&other)),
        }
    }
}
