//! How a session ended, as the error channel tells it (metav1.Status of the Kubernetes API).

use serde_json::json;

/// How a command or an attachment ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// Not 0; 128 + the signal's number where one ended it.
    Exit(i32),
    /// It could not be carried out.
    Failed(String),
}

impl Outcome {
    /// For protocols of version 4 and later.
    pub fn to_json(&self) -> Vec<u8> {
        let status = match self {
            Self::Success => json!({ "metadata": {}, "status": "Success" }),
            Self::Exit(code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": message(*code),
                "reason": "NonZeroExitCode",
                "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
            }),
            Self::Failed(why) => json!({
                "metadata": {},
                "status": "Failure",
                "message": format!("Internal error occurred: {why}"),
                "reason": "InternalError",
                "details": { "causes": [{ "message": why }] },
                "code": 500,
            }),
        };
        status.to_string().into_bytes()
    }

    /// For earlier ones: nothing, or a text.
    pub fn to_text(&self) -> Option<Vec<u8>> {
        match self {
            Self::Success => None,
            Self::Exit(code) => Some(message(*code).into_bytes()),
            Self::Failed(why) => Some(why.clone().into_bytes()),
        }
    }
}

impl From<i32> for Outcome {
    fn from(code: i32) -> Self {
        match code {
            0 => Self::Success,
            code => Self::Exit(code),
        }
    }
}

fn message(code: i32) -> String {
    format!("command terminated with non-zero exit code: {code}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_is_a_cause() {
        let status: serde_json::Value =
            serde_json::from_slice(&Outcome::from(7).to_json()).unwrap();
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(
            status["details"]["causes"][0],
            json!({ "reason": "ExitCode", "message": "7" })
        );
        assert_eq!(Outcome::from(0).to_text(), None);
        let failed = Outcome::Failed("no such file".to_owned());
        let status: serde_json::Value = serde_json::from_slice(&failed.to_json()).unwrap();
        assert_eq!(status["message"], "Internal error occurred: no such file");
        assert_eq!(failed.to_text().unwrap(), b"no such file");
    }
}
