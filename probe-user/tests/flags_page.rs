//! Compares docs/flags.md with the command line that clap builds, and with the exit codes.

use std::collections::BTreeMap;

use clap::{ArgAction, Command, CommandFactory};
use probe_user::command::{config::Args, exit_code};

const PAGE: &str = include_str!("../../docs/flags.md");

/// Variable and default of a flag; an empty text for none.
type Flag = (String, String);

/// Returns the rows below a heading: the first cell without backticks, and the others.
fn rows(heading: &str) -> impl Iterator<Item = Vec<String>> {
    let (_, below) = PAGE.split_once(&format!("\n## {heading}\n")).expect(heading);
    let section = below.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix('|'));
    rows.skip(1).map(|row| row.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect())
}

fn documented(heading: &str) -> BTreeMap<String, Flag> {
    let rows = rows(heading).map(|cells| {
        assert!(cells.len() == 4 && !cells[3].is_empty(), "{heading}: {cells:?}");
        (cells[0].clone(), (cells[1].clone(), cells[2].clone()))
    });
    rows.collect()
}

/// Returns the flags of a command: those of all commands, or its own.
fn accepted(command: &Command, global: bool) -> BTreeMap<String, Flag> {
    let arguments = command.get_arguments().filter(|argument| argument.is_global_set() == global);
    let named = arguments.filter_map(|argument| Some((argument.get_long()?, argument)));
    let flags = named.filter(|(name, _)| !["help", "version"].contains(name)).map(|(name, argument)| {
        let variable = argument.get_env().map(|name| name.to_string_lossy().into_owned());
        let default: Vec<_> = match argument.get_action() {
            ArgAction::SetTrue => Vec::new(),
            _ if argument.is_hide_default_value_set() => vec!["[a list](etcd-metrics.md)".to_owned()],
            _ => argument.get_default_values().iter().map(|v| v.to_string_lossy().into_owned()).collect(),
        };
        (format!("--{name}"), (variable.unwrap_or_default(), default.join(",")))
    });
    flags.collect()
}

#[test]
fn every_flag_has_a_row_with_its_variable_and_default() {
    let mut command = Args::command();
    command.build();
    assert_eq!(documented("All commands"), accepted(&command, true));
    for name in ["run", "check", "trace", "doctor"] {
        let subcommand = command.find_subcommand(name).expect(name);
        assert_eq!(documented(name), accepted(subcommand, false), "{name}");
    }
    let others = command.get_subcommands().map(Command::get_name).filter(|name| *name != "help");
    assert_eq!(others.collect::<Vec<_>>(), ["run", "check", "trace", "doctor"]);
}

#[test]
fn every_exit_code_has_a_row() {
    let documented: Vec<u8> = rows("Exit codes").map(|cells| cells[0].parse().expect("a number")).collect();
    let codes = [
        0,
        exit_code::DEGRADED,
        2,
        exit_code::BAD_USAGE,
        exit_code::UNREADABLE,
        exit_code::NO_KERNEL_SUPPORT,
        exit_code::FAILURE,
        exit_code::CANNOT_LISTEN,
        exit_code::NO_PRIVILEGE,
    ];
    assert_eq!(documented, codes);
}
