//! What two replies to one request may differ in. Everything else must be the same, byte for byte.
//!
//! Not sent at random, since kvorum means to differ from a Redis 7.0:
//!
//! - Requests of more than a million arguments: kvorum has a limit, Redis has had none since 7.0.
//! - A zero byte in a line of the protocol or behind an option's name: Redis takes what is before it for the
//!   whole, in a line even waits for ever.
//! - Hexadecimal operands of INCRBYFLOAT, which kvorum does not take.
//! - WAIT until behind the end of 64-bit time: refused since 7.2.
//! - HELLO with an option that is wrong behind one that is right: since 7.2 the right one has no effect then.
//! - Answers to what came before the first line of an HTTP request on a connection: Redis drops them.
//! - CONFIG SET of a setting that there is: kvorum's are in its file.

use super::servers::Value;

/// How two replies must agree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Agree {
    /// Byte for byte.
    Exact,
    /// The requests reach the two servers at different times, so times to live and moments that were
    /// computed from the clock may be so far apart.
    Within(i64),
    /// Ids, names, ports, offsets and the clock are each server's own: types and numbers of elements
    /// must be the same.
    Shape,
    /// What is told is each server's own (INFO, settings, help): the type must be the same.
    Kind,
    /// Redis adds with 80 bits of binary floating point and shows the error of that beyond 19 digits;
    /// kvorum adds decimal digits exactly, the same on every machine.
    Sum,
}

impl Agree {
    /// Whether Redis's reply and kvorum's agree in this way. Errors always agree by their text.
    pub(super) fn holds(self, redis: &[u8], kvorum: &[u8]) -> bool {
        if redis == kvorum {
            return true;
        }
        if redis.first() == Some(&b'-') || kvorum.first() == Some(&b'-') {
            return false;
        }
        match self {
            Self::Exact => false,
            Self::Within(distance) => {
                let number = |bytes: &[u8]| Value::of(bytes).text().parse::<i64>().ok();
                match (number(redis), number(kvorum)) {
                    (Some(left), Some(right)) => {
                        left > 0 && right > 0 && left.abs_diff(right) <= distance.unsigned_abs()
                    }
                    _ => false,
                }
            }
            Self::Shape => same_shape(&Value::of(redis), &Value::of(kvorum)),
            Self::Kind => redis.first() == kvorum.first(),
            Self::Sum => {
                let number = |bytes: &[u8]| Value::of(bytes).text().parse::<f64>().ok();
                match (number(redis), number(kvorum)) {
                    (Some(left), Some(right)) => (left - right).abs() <= left.abs() * 1e-15,
                    _ => false,
                }
            }
        }
    }
}

fn same_shape(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Line(left, _), Value::Line(right, _))
        | (Value::Bulk(left, _), Value::Bulk(right, _)) => left == right,
        (Value::List(left, lefts), Value::List(right, rights)) => {
            left == right
                && lefts.len() == rights.len()
                && lefts
                    .iter()
                    .zip(rights)
                    .all(|(left, right)| same_shape(left, right))
        }
        _ => false,
    }
}
