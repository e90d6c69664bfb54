//! The texts of the catalogue, as data. They are read at a terminal, offline, by someone who was just woken up: short
//! sentences, exact facts, commands that can be pasted once the words in capitals are replaced.

pub(super) mod configuration;
pub(super) mod connection;
pub(super) mod exchange;
pub(super) mod process;
