//! Writing to whoever reads, which may stop reading at any time.
//!
//! `harena run | head` is no failure: a closed pipe ends the output and changes nothing
//! else, the exit code included. Any other write error is the user's to know.

use std::io::{self, ErrorKind, Write};

use harena_report::escape;

/// Writes `text` to standard output.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    unless_closed(
        stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush()),
    )
}

/// Writes one line to standard error, escaped: names in it may come from foreign files.
/// If that fails there is nobody left to tell, and the exit code still says it.
pub(crate) fn complain(line: &str) {
    let _unheard = writeln!(io::stderr().lock(), "harena: {}", escape(line));
}

fn unless_closed(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
