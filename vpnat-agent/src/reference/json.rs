//! The JSON that verbs print and the flow log holds.

use crate::cli::JSON_SHAPES;
use crate::flow_log::record::LINE_HELP;

pub fn page() -> String {
    let mut text = super::heading(
        "JSON",
        "Shapes are stable: fields are added over time; `version` is raised when one is renamed or removed. Each shape is also in the\n\
         `--help` of its verb, and a test compares it with what is printed.",
    );
    for (title, help) in JSON_SHAPES.iter().chain(&[("The flow log", LINE_HELP)]) {
        text += &format!("## {title}\n\n```text\n{help}\n```\n\n");
    }
    text
}
