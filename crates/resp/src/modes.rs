//! From which request on a connection speaks which version, and whether it is answered at all.
//!
//! Requests are answered in any order inside the server, so "from now on" means a request's number
//! and not a moment: HELLO 3 must not change the reply to a GET that came before it and is still
//! being worked on.

use std::collections::VecDeque;

use crate::replies::Version;

/// What CLIENT REPLY asks for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum ReplyMode {
    /// Requests are answered.
    #[default]
    On,
    /// This request and the next one are not. Without effect while replies are off.
    Skip,
    /// No request is answered, this one included.
    Off,
}

/// How one request is answered.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Mode {
    pub(crate) version: Version,
    pub(crate) replies: ReplyMode,
}

/// The modes of all requests not yet answered, and of those to come.
#[derive(Clone, Default, Debug)]
pub(crate) struct Modes {
    /// The mode of the request last answered.
    last: Mode,
    /// From which request on what holds, ascending. Nearly always empty.
    changes: VecDeque<(u32, Mode)>,
}

impl Modes {
    /// The mode of a request that is not answered yet.
    #[inline]
    pub(crate) fn of(&self, seq: u32) -> Mode {
        if self.changes.is_empty() {
            return self.last;
        }
        let change = self
            .changes
            .iter()
            .rev()
            .find(|(from, _)| !before(seq, *from));
        change.map_or(self.last, |(_, mode)| *mode)
    }

    /// The mode of the request last answered: that of what is sent between two replies.
    pub(crate) fn last(&self) -> Mode {
        self.last
    }

    /// All requests before `next` have been answered.
    #[inline]
    pub(crate) fn answered(&mut self, next: u32) {
        while let Some((from, mode)) = self.changes.front()
            && before(*from, next)
        {
            self.last = *mode;
            self.changes.pop_front();
        }
    }

    pub(crate) fn set_version(&mut self, from: u32, version: Version) {
        self.change(from, |mode| mode.version = version);
    }

    pub(crate) fn set_replies(&mut self, from: u32, replies: ReplyMode) {
        if replies == ReplyMode::Skip {
            if self.of(from).replies == ReplyMode::Off {
                return;
            }
            self.change(from, |mode| mode.replies = ReplyMode::Skip);
            self.change(from.wrapping_add(2), |mode| mode.replies = ReplyMode::On);
        } else {
            self.change(from, |mode| mode.replies = replies);
        }
    }

    /// Takes CLIENT REPLY OFF back. What CLIENT REPLY SKIP keeps from being answered stays so: it ends by
    /// itself.
    pub(crate) fn reset_replies(&mut self, from: u32) {
        if self.of(from).replies == ReplyMode::Off {
            self.change(from, |mode| mode.replies = ReplyMode::On);
        }
    }

    fn change(&mut self, from: u32, change: impl Fn(&mut Mode)) {
        let position = self.changes.partition_point(|(at, _)| before(*at, from));
        if self.changes.get(position).is_none_or(|(at, _)| *at != from) {
            let mode = self.of(from);
            self.changes.insert(position, (from, mode));
        }
        for (_, mode) in self.changes.range_mut(position..) {
            change(mode);
        }
    }
}

/// Whether a request came before another. Numbers wrap; fewer than 2^31 are outstanding.
fn before(one: u32, other: u32) -> bool {
    (one.wrapping_sub(other) as i32) < 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replies(modes: &Modes, from: u32, count: u32) -> Vec<bool> {
        let answered = |i| modes.of(from.wrapping_add(i)).replies == ReplyMode::On;
        (0..count).map(answered).collect()
    }

    #[test]
    fn a_version_holds_from_its_request_on_across_the_wrap() {
        let mut modes = Modes::default();
        modes.set_version(u32::MAX, Version::Resp3);
        assert_eq!(modes.of(u32::MAX - 1).version, Version::Resp2);
        assert_eq!(modes.of(u32::MAX).version, Version::Resp3);
        assert_eq!(modes.of(0).version, Version::Resp3);
        modes.set_version(1, Version::Resp2);
        assert_eq!(modes.of(0).version, Version::Resp3);
        assert_eq!(modes.of(1).version, Version::Resp2);
        modes.answered(u32::MAX);
        assert_eq!(modes.last().version, Version::Resp2);
        modes.answered(0);
        assert_eq!(modes.last().version, Version::Resp3);
        modes.answered(2);
        assert_eq!(modes.last().version, Version::Resp2);
        assert!(modes.changes.is_empty());
    }

    #[test]
    fn skip_is_this_one_and_the_next() {
        let mut modes = Modes::default();
        modes.set_replies(5, ReplyMode::Skip);
        assert_eq!(replies(&modes, 4, 4), [true, false, false, true]);
        modes.set_replies(6, ReplyMode::Skip);
        assert_eq!(replies(&modes, 4, 5), [true, false, false, false, true]);
        modes.set_replies(7, ReplyMode::On);
        assert_eq!(replies(&modes, 4, 4), [true, false, false, true]);
    }

    #[test]
    fn skip_does_not_end_off_and_on_does() {
        let mut modes = Modes::default();
        modes.set_replies(1, ReplyMode::Off);
        modes.set_replies(2, ReplyMode::Skip);
        assert_eq!(
            replies(&modes, 0, 6),
            [true, false, false, false, false, false]
        );
        modes.set_replies(4, ReplyMode::On);
        assert_eq!(
            replies(&modes, 0, 6),
            [true, false, false, false, true, true]
        );
    }

    #[test]
    fn a_version_asked_for_in_a_skipped_request_outlives_the_skip() {
        let mut modes = Modes::default();
        modes.set_replies(1, ReplyMode::Skip);
        modes.set_version(2, Version::Resp3);
        assert_eq!(modes.of(2).replies, ReplyMode::Skip);
        assert_eq!(
            modes.of(3),
            Mode {
                version: Version::Resp3,
                replies: ReplyMode::On
            }
        );
    }
}
