//! What the crate promises, from outside.

mod support;

mod scripts;
