//! `query`: a pipeline's rows.

use std::io::{self, IsTerminal, Write};

use serde_json::Value;

use super::api::Daemon;
use super::error::CliError;
use super::table;
use crate::limits::RESULT_ROWS_MAX;

/// Shows a pipeline's rows: a table, CSV or JSON
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tidemill query page_views                     the newest rows, as a table
  tidemill query page_views --now               the window next to close
  tidemill query page_views --csv > views.csv
  tidemill query page_views --interval 1h       hours, merged of its windows
  tidemill query page_views --json | jq .views  one object a line")]
pub(super) struct Args {
    /// The pipeline's name
    pipeline: String,
    /// Only the window next to close: the live numbers
    #[arg(long)]
    now: bool,
    /// Spans of this length instead of windows (`1h`; of calendar windows `day`, `week`, `month`), each group merged
    #[arg(long, conflicts_with = "now")]
    interval: Option<String>,
    /// Only windows that begin at or after this (unix ms)
    #[arg(long, allow_negative_numbers = true)]
    from: Option<i64>,
    /// Only windows that begin before this (unix ms)
    #[arg(long, allow_negative_numbers = true)]
    to: Option<i64>,
    /// What aggregates show where a group has no window in a span from --from to --to: a number, or null
    #[arg(long, requires_all = ["interval", "from", "to"])]
    fill: Option<String>,
    /// Rows at most
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=RESULT_ROWS_MAX as u64))]
    limit: u64,
    /// One JSON object a row
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// CSV (RFC 4180), the first record names the columns
    #[arg(long)]
    csv: bool,
    #[command(flatten)]
    daemon: Daemon,
}

/// Asks and prints.
pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if args.pipeline.is_empty() || !args.pipeline.bytes().all(is_name) {
        return Err(CliError::Usage(format!(
            "`{}` is no pipeline's name: those have a-z, 0-9 and _ only",
            table::escape(&args.pipeline)
        )));
    }
    let mut question = format!("limit={}", args.limit);
    let numbers =
        [("from", args.from), ("to", args.to)].map(|(name, value)| (name, value.map(|value| value.to_string())));
    let now = args.now.then(|| "true".to_owned());
    let words = [("now", now), ("interval", args.interval.clone()), ("fill", args.fill.clone())];
    for (name, value) in numbers.into_iter().chain(words) {
        if let Some(value) = value {
            let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
            if !value.as_bytes().iter().all(is_plain) {
                return Err(CliError::Usage(format!("--{name} `{}` is no word or number", table::escape(&value))));
            }
            question.push_str(&format!("&{name}={}", value.replace('+', "%2B")));
        }
    }
    let answer = args.daemon.get(&format!("/api/v1/pipelines/{}/results?{question}", args.pipeline))?;
    let rows = Rows::read(answer)?;
    let text = if args.json {
        rows.json()
    } else if args.csv && io::stdout().is_terminal() {
        rows.csv().lines().map(|line| table::escape(line) + "\n").collect()
    } else if args.csv {
        rows.csv()
    } else {
        rows.table()
    };
    io::stdout().lock().write_all(text.as_bytes()).map_err(CliError::stdout)
}

struct Rows {
    columns: Vec<String>,
    rows: Vec<Vec<Value>>,
}

impl Rows {
    fn read(mut answer: Value) -> Result<Self, CliError> {
        let columns = serde_json::from_value(answer["columns"].take());
        let rows = serde_json::from_value(answer["rows"].take());
        match (columns, rows) {
            (Ok(columns), Ok(rows)) => Ok(Self { columns, rows }),
            (Err(error), _) | (_, Err(error)) => {
                Err(CliError::Bug(format!("the daemon's answer has other parts than columns and rows: {error}")))
            }
        }
    }

    fn table(&self) -> String {
        let rows = self.rows.iter().map(|row| row.iter().map(table::cell).collect());
        let count = match self.rows.len() {
            1 => "1 row".to_owned(),
            count => format!("{count} rows"),
        };
        format!("{}\n{count}\n", table::table(&self.columns, rows))
    }

    fn csv(&self) -> String {
        let names: Vec<Value> = self.columns.iter().map(|name| Value::from(name.as_str())).collect();
        let rows = self.rows.iter().map(table::csv_record);
        std::iter::once(table::csv_record(&names)).chain(rows).collect()
    }

    fn json(&self) -> String {
        self.rows.iter().map(|row| table::json_object(&self.columns, row) + "\n").collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::api::tests::answering;
    use super::*;

    fn args(pipeline: &str, daemon: Daemon) -> Args {
        let pipeline = pipeline.to_owned();
        Args {
            pipeline,
            now: true,
            interval: None,
            from: Some(-5),
            to: None,
            fill: None,
            limit: 7,
            json: false,
            csv: true,
            daemon,
        }
    }

    #[test]
    fn asks_for_what_was_said() {
        let (daemon, asked) = answering("HTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\n{\"columns\":[],\"rows\":[]}");
        run(&args("page_views", daemon)).unwrap();
        let asked = asked.join().unwrap();
        assert!(
            asked.starts_with("GET /api/v1/pipelines/page_views/results?limit=7&from=-5&now=true HTTP/1.1"),
            "{asked}"
        );
    }

    #[test]
    fn a_name_cannot_be_a_path() {
        let (daemon, _) = answering("");
        assert_eq!(run(&args("../stats", daemon)).unwrap_err().exit_code(), 64);
    }

    #[test]
    fn rows_come_as_table_csv_and_json() {
        let answer = json!({"columns": ["path", "views"], "rows": [["/a", 2], [null, 1]]});
        let rows = Rows::read(answer).unwrap();
        assert_eq!(rows.csv(), "path,views\r\n/a,2\r\n,1\r\n");
        assert_eq!(rows.json(), "{\"path\":\"/a\",\"views\":2}\n{\"path\":null,\"views\":1}\n");
        let table = rows.table();
        assert!(["path", "views", "/a", "NULL", "2 rows"].iter().all(|text| table.contains(text)), "{table}");
        assert_eq!(Rows::read(json!({"rows": []})).err().map(|error| error.exit_code()), Some(70));
    }
}
