//! Real processes, real sockets, a real disk: few and slow. What the simulator cannot see: flags, exit
//! codes, messages, files, signals.
//!
//! The tests take turns: several clusters at once on a small machine would only measure each other.

mod addresses;
mod bench;
mod churn;
mod clients;
mod cluster;
mod crowd;
mod cuts;
mod damage;
mod differential;
mod faults;
mod goodbye;
mod init;
mod kills;
mod load;
mod mapreduce;
mod mapreduce_cluster;
mod membership;
mod moves;
mod nodes;
mod once;
mod pauses;
mod process;
mod recovery;
mod refusals;
mod relay;
mod resp;
mod routers;
mod stock;
mod strangers;
