//! Errors as people see them: `error:` with the chain of causes, then a `hint:`, then an exit code.

use std::process::ExitCode;

/// Why a command ended badly.
#[derive(Debug)]
pub struct Failure {
    error: anyhow::Error,
    hint: Option<String>,
    code: u8,
}

impl Failure {
    /// Bad arguments, files or configuration: exit code 2.
    pub fn bad_input(error: impl Into<anyhow::Error>) -> Self {
        Self { error: error.into(), hint: None, code: 2 }
    }

    /// The run failed: exit code 1.
    pub fn run(error: impl Into<anyhow::Error>) -> Self {
        Self { error: error.into(), hint: None, code: 1 }
    }

    /// Adds what to do about it.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Prints it on stderr.
    pub fn report(&self) -> ExitCode {
        eprintln!("error: {:#}", self.error);
        if let Some(hint) = &self.hint {
            eprintln!("hint: {hint}");
        }
        ExitCode::from(self.code)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::run(error)
    }
}

/// A model that cannot be used is bad input, and it knows its own hint.
pub(crate) fn bad_model(error: model::ModelError) -> Failure {
    let hint = error.hint();
    let failure = Failure::bad_input(error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
