//! Words on stdout, where the reader may have gone: `tilehive run ... | head` is no reason to panic.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};

/// Prints a line on stdout.
macro_rules! say {
    ($($words:tt)*) => {
        $crate::say::line(format_args!($($words)*))
    };
}
pub(crate) use say;

/// Prints a line; a reader who left is let go, a disk that is full is told.
pub(crate) fn line(words: Arguments<'_>) {
    match writeln!(std::io::stdout(), "{words}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            eprintln!("error: cannot print the report: {error}");
        }
        _ => {}
    }
}
