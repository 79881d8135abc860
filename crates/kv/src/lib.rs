//! What commands mean.
#![allow(dead_code, missing_docs)]
mod directory;
mod hash;
pub mod limits;
mod position;
