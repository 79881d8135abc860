//! Who keeps clients: a lane with its node, or a hub with its router. What is done with their sockets is the
//! same.

use std::cell::RefMut;

use kvorum_base::ConnId;
use kvorum_resp::OutBuf;
use tokio::net::tcp::OwnedWriteHalf;

use super::Clients;

/// A loop whose tasks share a core.
pub(crate) trait Keeper: 'static {
    /// What they work on, one at a time.
    type Core: Kept;

    /// The core, for as long as nothing is waited for.
    fn kept(&self) -> RefMut<'_, Self::Core>;
}

/// The part of a core that has to do with clients' sockets.
pub(crate) trait Kept {
    /// The sockets.
    fn clients(&mut self) -> &mut Clients;
    /// The buffer that all sockets are read into.
    fn scratch(&mut self) -> &mut [u8];
    /// The first `len` bytes of the scratch are what a client sent.
    fn took(&mut self, conn: ConnId, len: usize);
    /// A client sends no more.
    fn ended(&mut self, conn: ConnId);
    /// A client's output, once blocked, has been written out whole.
    fn drained(&mut self, conn: ConnId);
    /// Forgets a client, once.
    fn close(&mut self, conn: ConnId);
    /// A client failed while effects were carried out: it is closed after them.
    fn died(&mut self, conn: ConnId);
    /// A client was paused although all of its output was taken: to be told after the effects.
    fn was_drained(&mut self, conn: ConnId);
    /// A client's socket and what is to be written to it; no output if it is forgotten inside.
    fn socket_and_output(&mut self, conn: ConnId)
    -> Option<(&OwnedWriteHalf, Option<&mut OutBuf>)>;
    /// So many bytes were written.
    fn wrote(&mut self, bytes: u64);

    /// A client is not to be read.
    fn pause(&mut self, conn: ConnId) {
        let Some(client) = self.clients().get(conn) else {
            return;
        };
        client.paused = true;
        let is_blocked = client.blocked;
        // The core judged before its output was written. If the socket took all of it, nobody else would
        // tell the core, and the pause would never end.
        let output = self.socket_and_output(conn).and_then(|(_, output)| output);
        if !is_blocked && output.is_none_or(|output| output.is_empty()) {
            self.was_drained(conn);
        }
    }

    /// A client is to be read again.
    fn resume(&mut self, conn: ConnId) {
        if let Some(client) = self.clients().get(conn).filter(|client| !client.closing) {
            client.paused = false;
            if let Some(reader) = client.paused_reader.take() {
                reader.wake();
            }
        }
    }
}
