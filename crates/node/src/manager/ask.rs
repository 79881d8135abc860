//! Requests on their way to the shard manager's primary, and the answers on their way back.
//!
//! A request is handed on once. One that was handed to another node may have been applied, whatever
//! becomes of the link: without an answer its outcome is unknown, and whoever asked has to look before
//! repeating it. One that waits because no primary is known was certainly not.

use std::collections::BTreeMap;

use kvorum_base::{Index, NodeId, Term};
use kvorum_cluster::{Refusal, Reply, Request};

use super::MANAGER;
use crate::effect::Effect;
use crate::format::manager::{Answer, ManagerMessage};
use crate::node::Node;

/// Who wants to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Who {
    /// Nobody: it is repeated until the state shows it.
    Nobody,
    /// The plan of this primary.
    Planner,
    /// An operator, through this node's shell.
    Operator(u64),
    /// Another node, under its number.
    Peer(NodeId, u64),
}

/// In the log of the group, and not applied yet.
#[derive(Debug)]
struct Proposed {
    index: Index,
    term: Term,
    who: Who,
    since_tick: u64,
}

/// Waits for a primary, or for the answer of one.
#[derive(Debug)]
struct Held {
    request: Request,
    who: Who,
    since_tick: u64,
}

/// Requests that have come to no end yet.
#[derive(Debug, Default)]
pub(crate) struct Asks {
    held: Vec<Held>,
    /// With another node, by number.
    handed: BTreeMap<u64, (NodeId, Held)>,
    proposed: Vec<Proposed>,
    /// Answers to be delivered at the end of the turn.
    answers: Vec<(Who, Answer)>,
    /// The highest number of each node: a frame may come twice.
    numbers: BTreeMap<NodeId, u64>,
    next_number: u64,
}

impl Asks {
    /// An entry of the group was applied here.
    pub(crate) fn applied(&mut self, index: Index, term: Term, reply: Reply) {
        let mut reply = Some(reply);
        for own in self.proposed.extract_if(.., |own| own.index <= index) {
            let answer = match (own.index == index, own.term == term) {
                (true, true) => reply.take().map_or(Answer::Unknown, Answer::Replied),
                // Another entry has its place.
                (true, false) => Answer::NotDone,
                // A snapshot has jumped over its place.
                (false, _) => Answer::Unknown,
            };
            self.answers.push((own.who, answer));
        }
    }

    /// Says to an operator what became of something that was done here.
    pub(crate) fn answer_operator(&mut self, token: u64, reply: Reply) {
        let answer = Answer::Replied(reply);
        self.answers.push((Who::Operator(token), answer));
    }

    /// Another node says what became of a request.
    pub(super) fn answered(&mut self, from: NodeId, number: u64, answer: Answer) {
        if self
            .handed
            .get(&number)
            .is_none_or(|(asked, _)| *asked != from)
        {
            return;
        }
        let Some((_, held)) = self.handed.remove(&number) else {
            return;
        };
        match answer {
            // That node is primary no more: another may be.
            Answer::NotDone => self.held.push(held),
            answer => self.answers.push((held.who, answer)),
        }
    }

    /// Whether anything that this primary planned is on its way.
    pub(super) fn plans(&self) -> bool {
        self.proposed.iter().any(|own| own.who == Who::Planner)
    }
}

impl Node {
    /// Has a request proposed to the shard manager, here or elsewhere.
    pub(crate) fn manage(&mut self, request: Request, who: Who) {
        if !request.reads_back() {
            let refused = Answer::Replied(Reply::Refused(Refusal::Malformed));
            return self.shared.manager.asks.answers.push((who, refused));
        }
        let since_tick = self.shared.now_tick;
        self.hand_on(Held {
            request,
            who,
            since_tick,
        });
    }

    fn hand_on(&mut self, held: Held) {
        let own = self.shared.config.node;
        let (groups, shared) = (&mut self.groups, &mut self.shared);
        let here = groups.iter_mut().find(|group| group.id == MANAGER);
        if let Some(group) = here
            && group.leading()
        {
            if let Some(index) = group.propose_request(&held.request, shared) {
                shared.manager.asks.proposed.push(Proposed {
                    index,
                    term: group.raft.term(),
                    who: held.who,
                    since_tick: held.since_tick,
                });
                return;
            }
        } else if let Some(node) = shared.primary_of(MANAGER).filter(|node| *node != own)
            && !matches!(held.who, Who::Peer(..))
        {
            let number = shared.log.incarnation() << 32 | shared.manager.asks.next_number;
            shared.manager.asks.next_number += 1;
            let request = held.request.clone();
            let ask = ManagerMessage::Ask { number, request };
            if held.who != Who::Nobody {
                shared.manager.asks.handed.insert(number, (node, held));
            }
            return shared.peers.send_manager(node, ask);
        }
        match held.who {
            Who::Operator(_) => shared.manager.asks.held.push(held),
            // The sender may know better by now who is primary.
            who => shared.manager.asks.answers.push((who, Answer::NotDone)),
        }
    }

    /// Another node has something to be proposed.
    pub(super) fn asked(&mut self, from: NodeId, number: u64, request: Request) {
        let last = self.shared.manager.asks.numbers.entry(from).or_default();
        if *last < number {
            *last = number;
            self.manage(request, Who::Peer(from, number));
        }
    }

    /// Tries again what waits for a primary.
    pub(super) fn ask_held(&mut self) {
        for held in std::mem::take(&mut self.shared.manager.asks.held) {
            self.hand_on(held);
        }
    }

    /// Tells those who have waited too long what is known.
    pub(super) fn give_up_asks(&mut self) {
        let deadline = self.shared.config.deadline_ticks;
        let Some(tick) = self.shared.now_tick.checked_sub(deadline) else {
            return;
        };
        let asks = &mut self.shared.manager.asks;
        let late = asks.held.extract_if(.., |held| held.since_tick <= tick);
        asks.answers
            .extend(late.map(|held| (held.who, Answer::NotDone)));
        let late = asks
            .handed
            .extract_if(.., |_, (_, held)| held.since_tick <= tick);
        asks.answers
            .extend(late.map(|(_, (_, held))| (held.who, Answer::Unknown)));
        let late = asks.proposed.extract_if(.., |own| own.since_tick <= tick);
        asks.answers
            .extend(late.map(|own| (own.who, Answer::Unknown)));
    }

    pub(super) fn deliver_answers(&mut self) {
        for (who, answer) in std::mem::take(&mut self.shared.manager.asks.answers) {
            match who {
                Who::Nobody => {}
                Who::Planner => self.shared.manager.planner.answered(&answer),
                Who::Operator(token) => self.shared.later(Effect::Managed {
                    token,
                    answer: Box::new(answer),
                }),
                Who::Peer(node, number) => {
                    let answer = ManagerMessage::Answer { number, answer };
                    self.shared.peers.send_manager(node, answer);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposed(entries: &[(u64, u64)]) -> Asks {
        let of = |(token, (index, term)): (u64, &(u64, u64))| Proposed {
            index: Index(*index),
            term: Term(*term),
            who: Who::Operator(token),
            since_tick: 0,
        };
        Asks {
            proposed: (1..).zip(entries).map(of).collect(),
            ..Asks::default()
        }
    }

    #[test]
    fn an_entry_in_its_place_is_answered_and_another_there_is_a_refusal() {
        let mut asks = proposed(&[(5, 2), (6, 2)]);
        asks.applied(Index(4), Term(2), Reply::Done);
        assert!(asks.answers.is_empty());
        asks.applied(Index(5), Term(2), Reply::Done);
        asks.applied(Index(6), Term(3), Reply::Done);
        let answers = [
            (Who::Operator(1), Answer::Replied(Reply::Done)),
            (Who::Operator(2), Answer::NotDone),
        ];
        assert_eq!(asks.answers, answers);
    }

    #[test]
    fn nobody_knows_what_became_of_an_entry_that_a_snapshot_jumped_over() {
        let mut asks = proposed(&[(5, 2), (9, 3)]);
        asks.applied(Index(9), Term(3), Reply::Done);
        let answers = [
            (Who::Operator(1), Answer::Unknown),
            (Who::Operator(2), Answer::Replied(Reply::Done)),
        ];
        assert_eq!(asks.answers, answers);
    }

    #[test]
    fn only_who_was_asked_can_answer_and_a_refusal_goes_on_waiting() {
        let request = Request::from(kvorum_cluster::Command::Rebalance);
        let held = |token| Held {
            request: request.clone(),
            who: Who::Operator(token),
            since_tick: 0,
        };
        let mut asks = Asks::default();
        asks.handed.insert(1, (NodeId(2), held(7)));
        asks.handed.insert(2, (NodeId(2), held(8)));
        asks.answered(NodeId(3), 1, Answer::Unknown);
        assert!(asks.answers.is_empty());
        asks.answered(NodeId(2), 1, Answer::NotDone);
        assert!(asks.answers.is_empty());
        assert_eq!(asks.held.len(), 1);
        asks.answered(NodeId(2), 2, Answer::Replied(Reply::Done));
        asks.answered(NodeId(2), 2, Answer::Replied(Reply::Done));
        assert_eq!(asks.answers.len(), 1);
    }
}
