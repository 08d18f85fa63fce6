//! The daemon as a process, with real sockets and a real store. One binary: linking ten is what a build's time goes to.
#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(clippy::disallowed_methods, reason = "tests wait for other processes by the machine's clock")]

mod support;

mod alerts;
mod backpressure;
mod bad_input;
mod batch;
mod bounds;
mod cases;
mod change;
mod completions;
mod crash;
mod dead_letters;
mod determinism;
mod doctor;
mod embed;
mod examples;
mod faults;
mod hostile;
mod http_ingest;
mod influx;
mod jobs;
mod main_job;
mod merged;
mod million;
mod operate;
mod ownership;
mod postgres;
mod protocol;
mod raw_events;
mod recipes;
mod redis;
mod reload;
mod replay;
mod sample;
mod stages;
mod tap;
mod tidy;
mod torture;
mod windows;
