//! What a verb can end with, and the exit code of each: the one place that knows sysexits.

use std::io;

/// Usage.
pub(super) const EXIT_USAGE: u8 = 64;

/// How a verb fails; the text is for whoever typed it.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// It was asked for in a way that cannot be: other arguments or another input are needed.
    #[error("{0}")]
    Usage(String),
    /// The config, or the state that is stored under another one.
    #[error("{0}")]
    Config(String),
    /// A journal cannot be used, or has failed.
    #[error("{0}")]
    Journal(String),
    /// Somebody else does not answer, or says no.
    #[error("{0}")]
    Unavailable(String),
    /// It cannot be read or written.
    #[error("{what}: {error}")]
    Io {
        /// What was done with which file.
        what: String,
        /// Why it failed.
        error: io::Error,
    },
    /// A check that the verb makes has failed.
    #[error("{0}")]
    Check(String),
    /// What tidemill itself said cannot be understood by tidemill.
    #[error("{0}; please report this as a bug")]
    Bug(String),
}

impl CliError {
    /// All errors of a config.
    pub(super) fn config(report: &crate::config::Report) -> Self {
        Self::Config(report.render(std::io::IsTerminal::is_terminal(&io::stderr())))
    }

    /// With what else is to be known, behind what went wrong.
    pub(super) fn with(self, more: &str) -> Self {
        let and = |text: String| format!("{text}; {more}");
        match self {
            Self::Usage(text) => Self::Usage(and(text)),
            Self::Config(text) => Self::Config(and(text)),
            Self::Journal(text) => Self::Journal(and(text)),
            Self::Unavailable(text) => Self::Unavailable(and(text)),
            Self::Check(text) => Self::Check(and(text)),
            Self::Bug(text) => Self::Bug(and(text)),
            Self::Io { what, error } => Self::Io { what: format!("{more}; {what}"), error },
        }
    }

    /// Code 1, 64, 69, 70, 74 or 78; a reader that went away has what it wanted: 0.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Check(_) => 1,
            Self::Usage(_) => EXIT_USAGE,
            Self::Unavailable(_) => 69,
            Self::Bug(_) => 70,
            Self::Config(_) => 78,
            Self::Journal(_) => 74,
            Self::Io { .. } if self.is_silent() => 0,
            Self::Io { .. } => 74,
        }
    }

    /// Whether nobody needs to be told: `tidemill generate | head` ends like this.
    pub(super) fn is_silent(&self) -> bool {
        matches!(self, Self::Io { error, .. } if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// For results that could not be written to stdout.
    pub(super) fn stdout(error: io::Error) -> Self {
        Self::Io { what: "cannot write to stdout".to_owned(), error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_sysexits() {
        assert_eq!(CliError::Usage(String::new()).exit_code(), 64);
        assert_eq!(CliError::Check(String::new()).exit_code(), 1);
        assert_eq!(CliError::Unavailable(String::new()).exit_code(), 69);
        assert_eq!(CliError::Bug(String::new()).exit_code(), 70);
        assert_eq!(CliError::stdout(io::Error::other("full")).exit_code(), 74);
        let pipe = CliError::stdout(io::ErrorKind::BrokenPipe.into());
        assert_eq!((pipe.exit_code(), pipe.is_silent()), (0, true));
    }
}
