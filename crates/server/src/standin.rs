//! A core that answers PING: in place until the real one is there.

use std::collections::BTreeMap;

use kvorum_base::ConnId;
use kvorum_node::{Control, Effect, Event, StopReason};
use kvorum_resp::OutBuf;

/// Answers `+PONG` for each line.
#[derive(Default, Debug)]
pub struct Node {
    outputs: BTreeMap<ConnId, OutBuf>,
    nobody: OutBuf,
}

impl Node {
    /// Takes an event.
    #[allow(clippy::needless_pass_by_value)]
    pub fn step(&mut self, event: Event<'_>, effects: &mut Vec<Effect>) {
        match event {
            Event::Opened { conn, .. } => {
                self.outputs.insert(conn, OutBuf::new());
            }
            Event::Closed { conn } => {
                self.outputs.remove(&conn);
            }
            Event::Bytes { conn, data } => {
                let lines = data.iter().filter(|byte| **byte == b'\n').count();
                let out = self.output(conn);
                for _ in 0..lines {
                    out.put(b"+PONG\r\n");
                }
            }
            Event::EndOfTurn => {
                let waiting = self.outputs.iter().filter(|(_, out)| !out.is_empty());
                effects.extend(waiting.map(|(conn, _)| Effect::Output(*conn)));
            }
            Event::Control(Control::Shutdown) => {
                effects.push(Effect::Stop(Box::new(StopReason::Shutdown)));
            }
            _ => {}
        }
    }

    /// A connection's output.
    pub fn output(&mut self, conn: ConnId) -> &mut OutBuf {
        self.outputs.get_mut(&conn).unwrap_or(&mut self.nobody)
    }
}
