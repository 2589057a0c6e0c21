//! Callbacks of a task's whole life, in order, as a user of a trace sees them.

use harena_abi::Nanos;
use harena_scx::{Form, Op, PlainImage};
use harena_sim::Simulation;
use harena_trace::JsonlSink;

use crate::schedulers::{Order, Simple, exact};

/// The writer end of a buffer that the test reads.
#[derive(Clone, Default)]
struct Shared(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("one writer").extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_short_life_in_jsonl() {
    let workload = r#"{"tasks": {"t": {"loop": 1, "phases": {
        "work": {"run": 100, "sleep": 50}, "end": {"run": 10}}}}}"#;
    let config = exact("1c", workload, Nanos::from_ms(1));
    let buffer = Shared::default();
    let names = Op::ALL.iter().map(|op| op.name(Form::Cpu)).collect();
    let sink = Box::new(JsonlSink::new(buffer.clone(), names));
    let image = Box::new(PlainImage::default());
    let ops = Simple::new(Order::Fifo);
    let mut simulation = Simulation::new(config, ops, image, Some(sink)).unwrap();
    let _outcome = simulation.run(&mut |_| {}).unwrap();
    let (_, _, sink) = simulation.into_parts();
    sink.unwrap().finish().unwrap();
    let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
    let field = |line: &str, name: &str| {
        let rest = line.split_once(&format!("\"{name}\":"))?.1;
        Some(rest.split([',', '}']).next()?.trim_matches('"').to_owned())
    };
    let story: Vec<String> = text
        .lines()
        .filter_map(|line| {
            let time = field(line, "t")?.parse::<u64>().unwrap() / 1000;
            let what = match field(line, "ev")?.as_str() {
                "callback" => field(line, "op")?,
                "switch" => format!("-> {}", field(line, "next")?),
                other => other.to_uppercase(),
            };
            Some(format!("{time} {what}"))
        })
        .collect();
    let expected = "\
        0 FORK|0 init|0 init_task|0 enable|0 set_weight|\
        0 WAKEUP|0 RUNNABLE|0 runnable|0 enqueue|0 INSERT|\
        0 dispatch|0 REMOVE|0 INSERT|0 REMOVE|0 running|0 -> 1|0 MARK|\
        100 stopping|100 quiescent|100 QUIESCENT|100 dispatch|100 -> null|\
        150 WAKEUP|150 RUNNABLE|150 runnable|150 enqueue|150 INSERT|\
        150 dispatch|150 REMOVE|150 INSERT|150 REMOVE|150 running|150 -> 1|150 MARK|\
        160 TASK_EXIT|160 stopping|160 quiescent|160 QUIESCENT|160 dispatch|160 -> null|\
        160 disable|160 exit_task|160 exit|160 EXIT";
    assert_eq!(story.join("\n"), expected.replace('|', "\n"));
}
