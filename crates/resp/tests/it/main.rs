//! The protocol, from outside: scripts to be read, properties to be believed.

mod limits;
mod model;
mod scripts;
mod split;
