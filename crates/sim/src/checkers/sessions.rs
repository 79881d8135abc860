//! A command that is repeated through a session happens once.
//!
//! Each session increments a counter of its own, number after number, and repeats each until it is
//! answered. So number n must be answered with n: more means that an attempt was executed twice,
//! less that one was answered and lost.

/// Checks the answer to the increment with this number.
///
/// # Errors
/// If it was executed twice, or never.
pub fn check(session: &str, number: u64, answered: i64) -> Result<(), String> {
    if answered == number as i64 {
        return Ok(());
    }
    Err(format!(
        "session {session}: increment number {number} was answered with {answered}"
    ))
}
