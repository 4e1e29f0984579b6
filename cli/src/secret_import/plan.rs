//! Compares the secrets of a file with those of a workspace. A plan shows names and never values.

use std::collections::BTreeMap;

use proto::{SecretName, SecretNameError, vault::v1::Secret, vault::v1::ValueFacts};
use zeroize::Zeroizing;

use crate::value::{
    Edits,
    env_file::VARIABLE_REMARK,
    import::{FileFault, Format, ImportEntry, ImportFile},
};

/// Maximum size of a value in bytes, which the vault enforces.
const MAX_VALUE: usize = 64 * 1024;

pub(crate) struct ImportPlan {
    pub(crate) format: Format,
    /// The secrets to put. Those whose value fits no place come first.
    pub(crate) puts: Vec<PlannedPut>,
    /// The entries of the file that cannot be put.
    pub(crate) left_out: Vec<LeftOut>,
    /// The parts of the file that cannot be read. When there is one, `puts` is empty.
    pub(crate) faults: Vec<FileFault>,
    pub(crate) notes: Vec<String>,
}

/// A secret of a file that can be put.
pub(crate) struct PlannedPut {
    pub(crate) line: usize,
    pub(crate) given: String,
    pub(crate) name: SecretName,
    /// The secret that is replaced. A put is made only if the secret is still this one.
    pub(crate) present: Option<Secret>,
    /// The reason for which the value fits no place of a request.
    pub(crate) fits_nowhere: Option<String>,
    /// The reason for which the value fits no header, which is the usual place.
    pub(crate) fits_no_header: Option<String>,
    /// A remark on a value that refers to a variable.
    pub(crate) variable: Option<&'static str>,
    pub(super) value: Zeroizing<Vec<u8>>,
}

/// An entry of a file that cannot be put.
pub(crate) struct LeftOut {
    pub(crate) line: usize,
    /// The name as the file writes it, unless the name may contain a value.
    pub(crate) given: Option<String>,
    /// A sentence without its full stop.
    pub(crate) problem: String,
}

impl ImportPlan {
    /// Plans the import of a file into a workspace that has the secrets `present`.
    pub(crate) fn of(file: ImportFile, present: Vec<Secret>, edits: Edits) -> Self {
        let ImportFile {
            format,
            entries,
            faults,
            notes,
        } = file;
        let mut plan = Self {
            format,
            puts: Vec::new(),
            left_out: Vec::new(),
            faults,
            notes,
        };
        if plan.faults.is_empty() {
            plan.add(entries, present, edits);
        }
        plan
    }

    fn add(&mut self, entries: Vec<ImportEntry>, present: Vec<Secret>, edits: Edits) {
        let mut present: BTreeMap<String, Secret> = present
            .into_iter()
            .map(|secret| (secret.name.clone(), secret))
            .collect();
        let lines = lines_by_name(&entries);
        for entry in entries {
            match checked(entry, &lines, edits) {
                Ok(mut put) => {
                    put.present = present.remove(put.name.as_str());
                    self.puts.push(put);
                }
                Err(left_out) => self.left_out.push(left_out),
            }
        }
        self.puts.sort_by_key(|put| put.fits_nowhere.is_none());
    }

    /// Returns what the plan of the workspace does not take, as a sentence without its full stop, if it does not take all. `room` is
    /// the number of new secrets that the workspace still takes; `None` for any number, or when it is not known.
    pub(crate) fn excess(&self, room: Option<u64>) -> Option<String> {
        let new = self.new_count();
        let fitting = match new - self.excess_count(room) {
            fitting if fitting == new => return None,
            0 => "none".to_owned(),
            fitting => format!("only {fitting}"),
        };
        Some(format!(
            "{fitting} of the {new} new secrets fit into the plan of the workspace"
        ))
    }

    /// Returns the number of new secrets that the plan of the workspace does not take.
    pub(crate) fn excess_count(&self, room: Option<u64>) -> usize {
        let room = room.map_or(usize::MAX, |room| usize::try_from(room).unwrap_or(usize::MAX));
        self.new_count().saturating_sub(room)
    }

    /// Returns the number of secrets that do not exist yet.
    pub(crate) fn new_count(&self) -> usize {
        self.puts.iter().filter(|put| put.present.is_none()).count()
    }
}

/// Returns the lines of the entries that have the same normalized name.
fn lines_by_name(entries: &[ImportEntry]) -> BTreeMap<SecretName, Vec<usize>> {
    let mut lines: BTreeMap<SecretName, Vec<usize>> = BTreeMap::new();
    for entry in entries {
        if let Ok(name) = SecretName::parse(&entry.given) {
            lines.entry(name).or_default().push(entry.line);
        }
    }
    lines
}

/// Returns the put of an entry, or the reason for which the entry is left out.
fn checked(
    ImportEntry {
        line,
        given,
        value,
        has_variable,
    }: ImportEntry,
    lines: &BTreeMap<SecretName, Vec<usize>>,
    edits: Edits,
) -> Result<PlannedPut, LeftOut> {
    let left_out = |given: Option<String>, problem: String| LeftOut { line, given, problem };
    let name = match SecretName::parse(&given) {
        Ok(name) => name,
        // The text is perhaps NAME=VALUE.
        Err(error @ SecretNameError::EqualsSign) => return Err(left_out(None, error.to_string())),
        Err(error) => return Err(left_out(Some(given), error.to_string())),
    };
    if let Some(same @ [_, _, ..]) = lines.get(&name).map(Vec::as_slice) {
        let problem = format!("{} set the same secret, {name}: keep one of them", listed(same));
        return Err(left_out(Some(given), problem));
    }
    let value = match value {
        Ok(value) if value.is_empty() => {
            return Err(left_out(Some(given), "there is no value".to_owned()));
        }
        Ok(value) => value,
        Err(fault) => return Err(left_out(Some(given), fault.to_string())),
    };
    let value = match edits.apply(name.as_str(), value) {
        Ok(value) => value,
        Err(failure) => return Err(left_out(Some(given), failure.message)),
    };
    if value.len() > MAX_VALUE {
        return Err(left_out(Some(given), "the value has more than 64 KiB".to_owned()));
    }
    let facts = ValueFacts::of(&value);
    Ok(PlannedPut {
        line,
        given,
        name,
        present: None,
        // Bodies need UTF-8, headers and cookies ASCII. Only the binary metadata of gRPC takes any bytes.
        fits_nowhere: facts
            .text_fault()
            .filter(|_| facts.metadata_fault().is_some())
            .map(|fault| fault.to_string()),
        fits_no_header: facts.header_fault().map(|fault| fault.to_string()),
        variable: has_variable.then_some(VARIABLE_REMARK),
        value,
    })
}

/// Returns "lines 1, 2 and 3".
fn listed(lines: &[usize]) -> String {
    let mut texts: Vec<String> = lines.iter().map(usize::to_string).collect();
    let last = texts.pop().unwrap_or_default();
    format!("lines {} and {last}", texts.join(", "))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;
    use crate::value::import;

    fn plan(text: &str, present: &[&str], edits: Edits) -> ImportPlan {
        let present = present.iter().map(|name| Secret {
            name: (*name).to_owned(),
            version: 3,
            ..Default::default()
        });
        ImportPlan::of(import::parse(text, None).unwrap(), present.collect(), edits)
    }

    fn left_out(plan: &ImportPlan) -> Vec<(usize, Option<&str>, &str)> {
        let left_out = plan.left_out.iter();
        left_out
            .map(|entry| (entry.line, entry.given.as_deref(), entry.problem.as_str()))
            .collect()
    }

    #[test]
    fn a_plan_says_what_is_created_and_what_is_replaced() {
        let plan = plan("github-token=1\nB=2\n", &["GITHUB_TOKEN", "C"], Edits::default());
        let puts: Vec<_> = plan
            .puts
            .iter()
            .map(|put| {
                (
                    put.line,
                    put.name.as_str(),
                    put.present.as_ref().map(|secret| secret.version),
                )
            })
            .collect();
        assert_eq!(puts, [(1, "GITHUB_TOKEN", Some(3)), (2, "B", None)]);
        assert_eq!(plan.new_count(), 1);
        assert!(plan.left_out.is_empty() && plan.faults.is_empty());
    }

    #[test]
    fn a_reference_to_a_variable_gets_a_remark_without_the_value() {
        let plan = plan("A=${HOME}/hunter2\nB='${HOME}'\n", &[], Edits::default());
        let remarks: Vec<_> = plan.puts.iter().map(|put| (put.line, put.variable)).collect();
        assert_eq!(remarks, [(1, Some(VARIABLE_REMARK)), (2, None)]);
    }

    #[test]
    fn a_plan_says_when_it_exceeds_that_of_the_workspace() {
        let planned = plan("A=1\nB=2\nC=3\n", &["C"], Edits::default());
        assert_eq!(planned.excess(None), None);
        // A secret that is replaced needs no room.
        assert_eq!(planned.excess(Some(2)), None);
        let excess = |room| planned.excess(Some(room)).unwrap();
        assert_eq!(
            excess(1),
            "only 1 of the 2 new secrets fit into the plan of the workspace"
        );
        assert_eq!(
            excess(0),
            "none of the 2 new secrets fit into the plan of the workspace"
        );
    }

    #[test]
    fn entries_with_the_same_normalized_name_are_all_left_out() {
        let plan = plan("a-b=1\nC=2\nA_B=3\na.b=4\n", &[], Edits::default());
        let problem = "lines 1, 3 and 4 set the same secret, A_B: keep one of them";
        assert_eq!(
            left_out(&plan),
            [
                (1, Some("a-b"), problem),
                (3, Some("A_B"), problem),
                (4, Some("a.b"), problem)
            ]
        );
        assert_eq!(plan.puts.len(), 1);
    }

    #[test]
    fn an_entry_without_a_name_or_a_value_is_left_out() {
        let long = "x".repeat(MAX_VALUE + 1);
        let text = format!(
            "{{\"A=hunter2\": \"1\",\n\"--\": \"1\",\n\"C\": \"\",\n\"D\": \"{long}\",\n\"E\": 1,\n\"F\": \" \"}}"
        );
        let trim = Edits {
            trim: true,
            compact: false,
        };
        let plan = plan(&text, &[], trim);
        let names: Vec<_> = left_out(&plan)
            .iter()
            .map(|(line, given, _)| (*line, *given))
            .collect();
        assert_eq!(
            names,
            [
                (1, None),
                (2, Some("--")),
                (3, Some("C")),
                (4, Some("D")),
                (5, Some("E")),
                (6, Some("F"))
            ]
        );
        assert!(plan.puts.is_empty());
        assert!(
            plan.left_out
                .iter()
                .all(|entry| !entry.problem.contains("hunter2"))
        );
    }

    #[test]
    fn values_that_fit_no_place_come_first() {
        let binary = "/w==";
        let long_binary = "////".repeat(3000);
        let text = format!(
            "apiVersion: v1\nkind: Secret\nstringData:\n  a: x\n  b: |\n    x\ndata:\n  c: {binary}\n  d: '{long_binary}'\n"
        );
        let plan = plan(&text, &[], Edits::default());
        let fits: Vec<_> = plan
            .puts
            .iter()
            .map(|put| {
                (
                    put.name.as_str(),
                    put.fits_nowhere.as_deref(),
                    put.fits_no_header.as_deref(),
                )
            })
            .collect();
        assert_eq!(
            fits,
            [
                ("D", Some("is not UTF-8"), Some("is not UTF-8")),
                ("C", None, Some("is not UTF-8")),
                ("A", None, None),
                ("B", None, Some("ends with a line break"))
            ]
        );
    }

    #[test]
    fn nothing_of_a_file_that_cannot_be_read_is_put() {
        let plan = plan("A=1\nhunter2\n", &[], Edits::default());
        assert_eq!(plan.faults.len(), 1);
        assert!(plan.puts.is_empty() && plan.left_out.is_empty());
    }
}
