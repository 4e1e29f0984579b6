//! The binary `aerostack`.

use std::process::ExitCode;

use aerostack::{Cli, Command, completion, connect, console, dev_command};
use clap::CommandFactory as _;
use mimalloc::MiMalloc;
use zeroizing_alloc::ZeroAlloc;

/// Wipes every buffer when it is freed, also the buffers of libraries that a value passes through.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<MiMalloc> = ZeroAlloc(MiMalloc);

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    if completion::is_asked(&args) {
        return completion::run(Cli::command());
    }
    let Cli { connect, command } = match Cli::read(args) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    connect::warn_of_unknown_variables();
    match command {
        Command::Dev(args) => dev_command::run(args),
        Command::Console(args) => console::run(args, &connect),
        Command::SetUp(command) => command.run(&connect),
        Command::Admin(command) => command.run(&connect, Cli::command()),
    }
}
