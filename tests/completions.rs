//! `tidemill completions`: what each shell is given names the verbs.

use crate::support::tidemill;

#[test]
fn each_shell_is_given_the_verbs() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = tidemill().args(["completions", shell]).output().unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{shell}");
        for verb in ["batch", "tap", "validate", "window-actors"] {
            assert!(script.contains(verb), "{shell} knows no {verb}");
        }
    }
    assert_eq!(tidemill().args(["completions", "tcl"]).output().unwrap().status.code(), Some(64));
}
