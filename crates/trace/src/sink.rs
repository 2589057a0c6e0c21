//! Receivers of records.
//!
//! A sink never stops a simulation: one that writes keeps its first error and reports it
//! at the end, so that a full disk changes neither digest nor result.

use std::io::{self, Write};

use harena_abi::Tid;

use crate::record::{Record, What};

/// A receiver of everything that is recorded.
pub trait Sink {
    /// A task exists from here on.
    fn task(&mut self, task: Tid, comm: &str, group: &str);
    /// One record.
    fn record(&mut self, record: &Record);
    /// A text that belongs to the record before it.
    fn text(&mut self, text: &str);
    /// Ends the recording.
    ///
    /// # Errors
    /// The first error that writing met.
    fn finish(&mut self) -> io::Result<()>;
}

/// Keeps all records in memory, for tests and small runs.
#[derive(Clone, Default, Debug)]
pub struct MemorySink {
    /// The records in order.
    pub records: Vec<Record>,
}

impl Sink for MemorySink {
    fn task(&mut self, _task: Tid, _comm: &str, _group: &str) {}
    fn record(&mut self, record: &Record) {
        self.records.push(*record);
    }
    fn text(&mut self, _text: &str) {}
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes one JSON object a line: `{"t":ns,"cpu":n,"ev":"switch",…}`.
#[derive(Debug)]
pub struct JsonlSink<W: Write> {
    writer: W,
    op_names: Vec<&'static str>,
    failed: Option<io::Error>,
}

impl<W: Write> JsonlSink<W> {
    /// A sink into `writer` (buffer it); `op_names` names callbacks by number.
    #[must_use]
    pub const fn new(writer: W, op_names: Vec<&'static str>) -> Self {
        Self {
            writer,
            op_names,
            failed: None,
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        if self.failed.is_none()
            && let Err(error) = writeln!(self.writer, "{line}")
        {
            self.failed = Some(error);
        }
    }
}

fn json_task(task: Option<Tid>) -> String {
    task.map_or_else(|| "null".to_owned(), |t| t.to_string())
}

/// `text` as a JSON string, quotes included.
fn json_string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

impl<W: Write> Sink for JsonlSink<W> {
    fn task(&mut self, task: Tid, comm: &str, group: &str) {
        let (comm, group) = (json_string(comm), json_string(group));
        self.line(format_args!(
            r#"{{"task":{task},"comm":{comm},"group":{group}}}"#
        ));
    }

    fn record(&mut self, r: &Record) {
        let rest = match r.what {
            What::Switch { prev, next } => {
                format!(r#""prev":{},"next":{}"#, json_task(prev), json_task(next))
            }
            What::Wakeup { task, cause } => {
                let cause = format!("{cause:?}").to_lowercase();
                format!(r#""task":{task},"cause":"{cause}""#)
            }
            What::Runnable { task, rq } | What::Quiescent { task, rq } => {
                format!(r#""task":{task},"rq":{rq}"#)
            }
            What::Insert { task, dsq } | What::Remove { task, dsq } => {
                format!(r#""task":{task},"dsq":"{dsq}""#)
            }
            What::Migrate { task, from, to } => {
                format!(r#""task":{task},"from":{from},"to":{to}"#)
            }
            What::Callback { op, task } => {
                let name = self.op_names.get(usize::from(op)).unwrap_or(&"?");
                format!(r#""op":"{name}","task":{}"#, json_task(task))
            }
            What::Tick => String::new(),
            What::Ipi { to } => format!(r#""to":{to}"#),
            What::Fork { task } | What::TaskExit { task } => format!(r#""task":{task}"#),
            What::Mark { task, mark, value } => {
                let mark = format!("{mark:?}").to_lowercase();
                format!(r#""task":{task},"mark":"{mark}","value":{value}"#)
            }
            What::Exit { kind, code } => format!(r#""kind":{kind},"code":{code}"#),
        };
        let name = What::NAMES[usize::from(r.what.kind())];
        let comma = if rest.is_empty() { "" } else { "," };
        self.line(format_args!(
            r#"{{"t":{},"cpu":{},"ev":"{name}"{comma}{rest}}}"#,
            r.time.as_ns(),
            r.cpu
        ));
    }

    fn text(&mut self, text: &str) {
        let text = json_string(text);
        self.line(format_args!(r#"{{"text":{text}}}"#));
    }

    fn finish(&mut self) -> io::Result<()> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => self.writer.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use harena_abi::{Cpu, SimTime};

    use super::*;

    #[test]
    fn jsonl_escapes_names_and_has_one_object_a_line() {
        let mut sink = JsonlSink::new(Vec::new(), vec!["select_cpu"]);
        sink.task(Tid::new(1), "a\"b\\\n", "g");
        sink.record(&Record {
            time: SimTime::from_ns(5),
            cpu: Cpu::new(2),
            what: What::Callback {
                op: 0,
                task: Some(Tid::new(1)),
            },
        });
        sink.record(&Record {
            time: SimTime::from_ns(6),
            cpu: Cpu::new(2),
            what: What::Tick,
        });
        sink.finish().unwrap();
        let text = String::from_utf8(sink.writer).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"task":1,"comm":"a\"b\\\u000a","group":"g"}"#,
                "\n",
                r#"{"t":5,"cpu":2,"ev":"callback","op":"select_cpu","task":1}"#,
                "\n",
                r#"{"t":6,"cpu":2,"ev":"tick"}"#,
                "\n"
            )
        );
    }

    #[test]
    fn a_failing_writer_is_reported_at_the_end_and_only_there() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut sink = JsonlSink::new(Full, Vec::new());
        sink.text("x");
        sink.text("y");
        assert_eq!(
            sink.finish().unwrap_err().kind(),
            io::ErrorKind::StorageFull
        );
    }
}
