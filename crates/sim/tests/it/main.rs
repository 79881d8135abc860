//! One binary for all tests of the judge: its own parts, and the labs' scenarios.

mod linearizable;
mod net;
