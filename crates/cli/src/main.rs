//! The command `overdue`: calls that explain themselves.

mod aid;
mod args;
mod demo;
mod doctor;
mod drive;
mod exit;
mod explain;
mod file;
mod flame;
mod gate;
mod get;
mod interrupt;
mod lab;
mod page;
mod plan;
mod render;
mod screen;
mod sink;
mod started;
mod tally;
mod through;
mod top;
mod trace;
mod truth;
mod verify;
mod why;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Args, Command, Lab};

// No runtime and no thread starts here: a scenario may need a namespace, which only a process of one thread can enter.
fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return exit::usage(&error),
    };
    let result = match args.command {
        Command::Get(flags) => get::run(&flags),
        Command::Why(flags) => why::run(&flags),
        Command::Top(flags) => top::run(&flags),
        Command::Flame(flags) => flame::run(&flags),
        Command::Become { owner, command } => why::become_command(owner, &command),
        Command::Gate(flags) => gate::run(&flags),
        Command::Demo => demo::run(),
        Command::Lab(Lab::List) => lab::list(),
        Command::Lab(Lab::Run { name, json, through_gate, owner }) => lab::run(&name, json, through_gate, owner),
        Command::Lab(Lab::Verify { names, json, through_gate, runs }) => verify::run(&names, json, through_gate, runs),
        Command::Explain { cause } => explain::run(cause.as_deref()),
        Command::Doctor { json } => doctor::run(json),
    };
    interrupt::give_way();
    match result {
        Ok(exit) => exit.into(),
        Err(error) => exit::failed(&error),
    }
}
