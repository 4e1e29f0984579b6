//! Plans of workspaces.

use maud::{Markup, html};
use proto::vault::v1::Plan;

use crate::{console::view::bar, plan_limit::secret_limit};

/// The plans, from the smallest.
const PLANS: [Plan; 5] = [
    Plan::Free,
    Plan::Starter,
    Plan::Pro,
    Plan::Business,
    Plan::Enterprise,
];

pub(super) fn label(plan: Plan) -> &'static str {
    match plan {
        Plan::Unspecified => "unknown",
        Plan::Free => "free",
        Plan::Starter => "starter",
        Plan::Pro => "pro",
        Plan::Business => "business",
        Plan::Enterprise => "enterprise",
    }
}

fn limit_text(plan: Plan) -> String {
    match secret_limit(plan) {
        Some(1000) => "1,000 secrets".to_owned(),
        Some(limit) => format!("{limit} secrets"),
        None => "any number of secrets".to_owned(),
    }
}

/// Returns the plan of a form, and `Plan::Unspecified` for any other text.
pub(super) fn parse(text: &str) -> Plan {
    let found = PLANS.into_iter().find(|plan| label(*plan) == text);
    found.unwrap_or(Plan::Unspecified)
}

/// Returns how full a plan is: a bar and its text.
pub(super) fn usage(plan: Plan, used: u64) -> Markup {
    html! {
        div.usage {
            @if let Some(limit) = secret_limit(plan) {
                (bar(used, limit))
                span.number { (used) " of " (limit) }
            } @else {
                span.number { (used) }
            }
        }
    }
}

/// Returns the choice of a plan. With `default_plan`, the vault may choose.
pub(super) fn choice(chosen: Plan, default_plan: bool) -> Markup {
    html! {
        fieldset.choices {
            legend { "Plan" }
            @if default_plan {
                label {
                    input type="radio" name="plan" value="" checked[chosen == Plan::Unspecified];
                    span { "The vault's default" small { "the operator's setting " code { "--default-plan" } } }
                }
            }
            @for plan in PLANS {
                label {
                    input type="radio" name="plan" value=(label(plan)) checked[plan == chosen];
                    span { (label(plan)) small { (limit_text(plan)) } }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_as_it_is_written() {
        for plan in PLANS {
            assert_eq!(parse(label(plan)), plan);
        }
        assert_eq!(parse(""), Plan::Unspecified);
    }
}
