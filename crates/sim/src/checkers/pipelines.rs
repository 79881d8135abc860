//! Requests of one connection take effect in their order, also when they are sent together.
//!
//! Concurrent requests of one client may be ordered anyhow for all that linearizability says, so
//! this has a check of its own: on a key that nobody else touches, the replies of a pipeline must be
//! those of running it step by step.

use std::rc::Rc;

use super::strings::{Input, Output, Value};

/// What a client's own key holds, as it can tell by itself.
#[derive(Clone, Default, Debug)]
pub struct OwnKey {
    value: Option<Vec<u8>>,
}

impl OwnKey {
    /// Runs a step and says what it must return.
    ///
    /// # Panics
    /// For commands that pipelines of own keys do not use.
    pub fn run(&mut self, input: &Input) -> Output {
        let bytes = self.value.clone().unwrap_or_default();
        match input {
            Input::Get => Output::Value(self.value.as_deref().map(Value::from)),
            Input::Set { value, .. } => {
                self.value = Some(value.to_vec());
                Output::Ok
            }
            Input::Append(piece) => {
                let whole = [&bytes[..], piece].concat();
                let len = whole.len() as i64;
                self.value = Some(whole);
                Output::Int(len)
            }
            Input::Del => Output::Int(i64::from(self.value.take().is_some())),
            Input::StrLen => Output::Int(bytes.len() as i64),
            other => unreachable!("no step of a pipeline: {other:?}"),
        }
    }

    /// Runs a whole pipeline and compares.
    ///
    /// # Errors
    /// If a reply is another one.
    pub fn check(
        &mut self,
        key: &str,
        steps: impl Iterator<Item = (Input, Output)>,
    ) -> Result<(), String> {
        for (at, (input, output)) in steps.enumerate() {
            let before = self.value.as_deref().map(Rc::<[u8]>::from);
            let expected = self.run(&input);
            if output != expected {
                return Err(format!(
                    "{key}: step {at} of a pipeline, {input:?} of {before:?}, returned {output:?}"
                ));
            }
        }
        Ok(())
    }
}
