use clap::{Command, Parser};

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    limits: LimitSettings,
}

fn check(args: &[&str]) -> Result<Limits, String> {
    let line = Line::try_parse_from([&["x"], args].concat()).map_err(|error| error.to_string())?;
    let mut problems = Problems::default();
    let limits = line.limits.check(&mut problems);
    problems.finish(limits).map_err(|problems| problems.to_string())
}

#[test]
fn every_limit_has_a_default_and_every_wrong_one_is_named() {
    let limits = check(&[]).unwrap();
    assert_eq!(limits.max_headers_size, 64 * 1024);
    assert_eq!(limits.max_call_duration, None);
    let wrong = [
        ("--max-connections", "0"),
        ("--max-concurrent-streams", "-1"),
        ("--worker-threads", "17"),
        ("--max-uri-size", "64KiB"),
        ("--max-headers-size", "64KB"),
        ("--max-headers", "9"),
        ("--head-timeout", "0s"),
        ("--body-timeout", "30"),
        ("--max-buffered-body", "2GiB"),
        ("--max-buffered-total", "1KiB"),
        ("--idle-timeout", "0ms"),
        ("--write-timeout", "soon"),
        ("--upgraded-idle-timeout", "0s"),
        ("--max-call-duration", "0s"),
        ("--vault-timeout", "0s"),
        ("--upstream-connect-timeout", "0s"),
        ("--upstream-ping-interval", "0s"),
        ("--upstream-ping-timeout", "none"),
        ("--ping-interval", "25h"),
        ("--ping-timeout", "1"),
        ("--tcp-timeout", "4s"),
        ("--upstream-max-http2-connections", "0"),
        ("--upstream-max-idle", "many"),
        ("--upstream-idle-timeout", "0s"),
        ("--upstream-max-connection-age", "0h"),
        ("--max-servers-per-workspace", "some"),
        ("--max-servers-size-per-workspace", "9MiB"),
    ];
    let args: Vec<String> = wrong
        .iter()
        .map(|(flag, value)| format!("{flag}={value}"))
        .collect();
    let said = check(&args.iter().map(String::as_str).collect::<Vec<_>>()).unwrap_err();
    for (flag, _) in wrong {
        assert!(said.contains(&format!("{flag}: ")), "{flag}: {said}");
    }
    let duration = check(&["--max-call-duration=1h"]).unwrap().max_call_duration;
    assert_eq!(duration, Some(Duration::from_secs(3600)));
}

#[test]
fn the_documentation_has_every_limit_with_its_default() {
    let command = LimitSettings::augment_args(Command::new("limits"));
    let documented: Vec<(&str, &str)> = include_str!("../../../docs/limits.md")
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `--")?.split('|').map(str::trim);
            Some((
                cells.next()?.trim_end_matches('`'),
                cells.next()?.trim_matches('`'),
            ))
        })
        .collect();
    let settings: Vec<(&str, &str)> = command
        .get_arguments()
        .map(|arg| {
            let default = arg.get_default_values().first().and_then(|value| value.to_str());
            (arg.get_long().unwrap(), default.unwrap())
        })
        .collect();
    assert_eq!(documented, settings);
}

#[test]
fn stopped_peers_and_grpc_servers_are_left_in_peace_by_default() {
    let Keepalive {
        upstream_ping,
        ping,
        tcp_timeout,
    } = check(&[]).unwrap().keepalive;
    // Stock gRPC servers allow one PING every five minutes.
    assert!(upstream_ping.interval > Duration::from_secs(5 * 60));
    // A peer may be stopped for 90 seconds.
    assert!(upstream_ping.timeout.min(ping.timeout) > Duration::from_secs(90));
    // One that is gone is noticed within a minute.
    assert!(tcp_timeout.0 < Duration::from_secs(60));
}
