//! The plan and the results of `secret import`, as they are printed.

use serde::Serialize;

use crate::{
    failure::Failure,
    output::{OutputArgs, Report, table},
    secret_import::{ImportPlan, Imported, LeftOut, PlannedPut, PutOutcome},
};

/// The plan of an import.
#[derive(Serialize)]
pub(super) struct Preview {
    workspace: String,
    format: String,
    /// Entries that cannot be set.
    left_out: Vec<LeftOutEntry>,
    secrets: Vec<PlannedSecret>,
    /// Parts of the file that were left out because of their meaning.
    notes: Vec<String>,
    /// The number of new secrets that do not fit into the plan of the workspace, in words.
    plan_limit: Option<String>,
}

#[derive(Serialize)]
struct LeftOutEntry {
    line: usize,
    /// The name as the file writes it, unless it may contain a value.
    given: Option<String>,
    problem: String,
}

#[derive(Serialize)]
struct PlannedSecret {
    line: usize,
    given: String,
    name: String,
    /// The version that is replaced; `None` for a new secret.
    replaces_version: Option<u64>,
    /// A remark about the value, such as that it fits no header.
    remarks: Vec<String>,
}

/// The results of an import.
#[derive(Serialize)]
pub(super) struct Results {
    workspace: String,
    secrets: Vec<SecretResult>,
    left_out: Vec<LeftOutEntry>,
    notes: Vec<String>,
    #[serde(skip)]
    has_unbound: bool,
}

#[derive(Serialize)]
struct SecretResult {
    line: usize,
    name: String,
    /// `created`, `replaced`, `failed` or `not_tried`.
    outcome: &'static str,
    version: Option<u64>,
    problem: Option<String>,
}

impl LeftOutEntry {
    fn of(LeftOut { line, given, problem }: LeftOut) -> Self {
        Self { line, given, problem }
    }

    fn name(&self) -> &str {
        self.given.as_deref().unwrap_or("(not shown)")
    }
}

impl Preview {
    /// `never_expires` is true when the values get no expiry. `plan_limit` says what the plan of the workspace does not take.
    pub(super) fn of(
        plan: &ImportPlan,
        workspace: &str,
        never_expires: bool,
        plan_limit: Option<String>,
    ) -> Self {
        let left_out = plan.left_out.iter().map(|entry| LeftOutEntry {
            line: entry.line,
            given: entry.given.clone(),
            problem: entry.problem.clone(),
        });
        Self {
            workspace: workspace.to_owned(),
            format: plan.format.to_string(),
            left_out: left_out.collect(),
            secrets: plan
                .puts
                .iter()
                .map(|put| PlannedSecret::of(put, never_expires))
                .collect(),
            notes: plan.notes.clone(),
            plan_limit,
        }
    }

    /// Returns the table for people, with the entries that need attention first.
    pub(super) fn text(&self) -> String {
        let left_out = self.left_out.iter().map(|entry| {
            [
                entry.line.to_string(),
                entry.name().to_owned(),
                "leave out".to_owned(),
                entry.problem.clone(),
            ]
        });
        let puts = self.secrets.iter().map(PlannedSecret::row);
        let mut text = table(["LINE", "NAME", "ACTION", "REMARK"], left_out.chain(puts));
        for note in &self.notes {
            text.push_str(note);
            text.push('\n');
        }
        if let Some(excess) = &self.plan_limit {
            text.push_str(&format!(
                "warning: {excess}; a larger one: aerostack workspace update {} --plan PLAN\n",
                self.workspace
            ));
        }
        text
    }

    pub(super) fn question(&self) -> String {
        let Self {
            workspace,
            left_out,
            secrets,
            ..
        } = self;
        let count = match secrets.len() {
            1 => "1 secret".to_owned(),
            count => format!("{count} secrets"),
        };
        match left_out.len() {
            0 => format!("Set {count} of {workspace}?"),
            1 => format!("Set {count} of {workspace}, and leave 1 entry out?"),
            entries => format!("Set {count} of {workspace}, and leave {entries} entries out?"),
        }
    }

    pub(super) fn report(self, output: OutputArgs) -> Result<Report, Failure> {
        let report = Report::new(output, &self, Self::text)?;
        Ok(Report {
            is_negative: !self.left_out.is_empty(),
            ..report.note("Nothing was set.")
        })
    }
}

impl PlannedSecret {
    fn of(put: &PlannedPut, never_expires: bool) -> Self {
        let PlannedPut {
            line,
            given,
            name,
            present,
            fits_nowhere,
            fits_no_header,
            variable,
            ..
        } = put;
        let spelling = (given != name.as_str()).then(|| format!("written {given}"));
        let fit = match (fits_nowhere, fits_no_header) {
            (Some(fault), _) => Some(format!("the value fits no place: it {fault}")),
            (None, Some(fault)) => Some(format!("the value fits no header: it {fault}")),
            (None, None) => None,
        };
        let variable = variable.map(str::to_owned);
        let expires = present.as_ref().is_some_and(|secret| secret.expires_at.is_some());
        let expiry = (expires && never_expires).then(|| "it does not expire any more".to_owned());
        Self {
            line: *line,
            given: given.clone(),
            name: name.to_string(),
            replaces_version: present.as_ref().map(|secret| secret.version),
            remarks: [spelling, fit, variable, expiry].into_iter().flatten().collect(),
        }
    }

    fn row(&self) -> [String; 4] {
        let action = match self.replaces_version {
            Some(version) => format!("replace version {version}"),
            None => "create".to_owned(),
        };
        [
            self.line.to_string(),
            self.name.clone(),
            action,
            self.remarks.join("; "),
        ]
    }
}

impl Results {
    pub(super) fn of(
        workspace: String,
        imported: Vec<Imported>,
        left_out: Vec<LeftOut>,
        notes: Vec<String>,
    ) -> Self {
        let has_unbound = imported.iter().any(|secret| {
            matches!(
                secret.outcome,
                PutOutcome::Created { is_bound: false, .. } | PutOutcome::Replaced { is_bound: false, .. }
            )
        });
        Self {
            workspace,
            secrets: imported.into_iter().map(SecretResult::of).collect(),
            left_out: left_out.into_iter().map(LeftOutEntry::of).collect(),
            notes,
            has_unbound,
        }
    }

    fn text(&self) -> String {
        let left_out = self.left_out.iter().map(|entry| {
            format!(
                "line {}: {} left out: {}\n",
                entry.line,
                entry.name(),
                entry.problem
            )
        });
        let secrets = self.secrets.iter().map(SecretResult::line);
        let notes = self.notes.iter().cloned();
        notes
            .chain(left_out)
            .chain(secrets)
            .map(|line| crate::output::printable(line.trim_end()) + "\n")
            .collect()
    }

    pub(super) fn report(self, output: OutputArgs) -> Result<Report, Failure> {
        let all = self.secrets.len() + self.left_out.len();
        let set = self
            .secrets
            .iter()
            .filter(|secret| secret.version.is_some())
            .count();
        let mut report = Report::new(output, &self, Self::text)?;
        report.is_negative = set < all;
        if set < all {
            report = report.note(format!("{set} of {all} entries of the file were set."));
        }
        if self.has_unbound {
            report = report.note(
                "Whoever may edit servers can have values without origins sent anywhere: limit them with --only-to ORIGIN",
            );
        }
        Ok(report)
    }
}

impl SecretResult {
    fn of(Imported { line, name, outcome }: Imported) -> Self {
        let (outcome, version, problem) = match outcome {
            PutOutcome::Created { version, is_bound: _ } => ("created", Some(version), None),
            PutOutcome::Replaced { version, is_bound: _ } => ("replaced", Some(version), None),
            PutOutcome::Failed(failure) => ("failed", None, Some(failure.message)),
            PutOutcome::NotTried => ("not_tried", None, None),
        };
        Self {
            line,
            name,
            outcome,
            version,
            problem,
        }
    }

    fn line(&self) -> String {
        let Self {
            line: _,
            name,
            outcome,
            version,
            problem,
        } = self;
        match (version, problem) {
            (Some(version), _) => format!("{name} {outcome} (version {version})\n"),
            (None, Some(problem)) => format!("{name} not set: {problem}\n"),
            (None, None) => format!("{name} not set: not tried after the failure above\n"),
        }
    }
}
