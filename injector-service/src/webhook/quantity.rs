//! Quantities of Kubernetes, such as `20m` and `64Mi`.

use std::cmp::Ordering;

/// One, in billionths.
const ONE: u128 = 1_000_000_000;

/// The units in which Kubernetes counts a resource.
#[derive(Debug)]
pub(super) struct Units {
    suffixes: &'static [&'static str],
    /// The valid forms, for an error.
    forms: &'static str,
}

pub(super) const PROCESSORS: Units = Units {
    suffixes: &["m", ""],
    forms: "a number of processors, such as 0.5, or of thousandths of one, such as 500m",
};
pub(super) const BYTES: Units = Units {
    suffixes: &["", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"],
    forms: "a number of bytes with the unit Ki, Mi, Gi, Ti, k, M, G or T, such as 64Mi",
};

/// A positive quantity. Quantities compare by their value.
#[derive(Debug, Clone)]
pub(super) struct Quantity {
    text: String,
    /// Value in billionths.
    nanos: u128,
}

/// A request and perhaps a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ResourceAmount {
    pub(super) request: Quantity,
    pub(super) limit: Option<Quantity>,
}

impl Quantity {
    pub(super) fn parse(text: &str, units: &Units) -> Result<Self, String> {
        match nanos(text, units) {
            Some(0) => Err(format!("{text:?} is zero")),
            Some(nanos) => Ok(Self {
                text: text.to_owned(),
                nanos,
            }),
            None => Err(format!("{text:?} is not a quantity: write {}", units.forms)),
        }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Returns the value rounded up to a whole number.
    pub(super) fn rounded_up(&self) -> usize {
        usize::try_from(self.nanos.div_ceil(ONE)).unwrap_or(usize::MAX)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

/// Returns the value in billionths. Decimal exponents (`1e3`), which the syntax also has, are not accepted.
fn nanos(text: &str, units: &Units) -> Option<u128> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    if !units.suffixes.contains(&suffix) {
        return None;
    }
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() + fraction.len() > 15 || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let divisor = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    digits.checked_mul(unit_nanos(suffix)?)?.checked_div(divisor)
}

fn unit_nanos(suffix: &str) -> Option<u128> {
    Some(match suffix {
        "m" => 1_000_000,
        "" => ONE,
        "k" => ONE * 1_000,
        "M" => ONE * 1_000_000,
        "G" => ONE * 1_000_000_000,
        "T" => ONE * 1_000_000_000_000,
        "Ki" => ONE << 10,
        "Mi" => ONE << 20,
        "Gi" => ONE << 30,
        "Ti" => ONE << 40,
        _ => return None,
    })
}

impl ResourceAmount {
    /// Parses `REQUEST` or `REQUEST,LIMIT`.
    pub(super) fn parse(text: &str, units: &Units) -> Result<Self, String> {
        let (request, limit) = match text.split_once(',') {
            Some((request, limit)) => (request, Some(Quantity::parse(limit.trim(), units)?)),
            None => (text, None),
        };
        let request = Quantity::parse(request.trim(), units)?;
        match &limit {
            Some(limit) if *limit < request => Err(format!(
                "the limit {} is less than the request {}",
                limit.text, request.text
            )),
            _ => Ok(Self { request, limit }),
        }
    }

    /// Returns the limit, or the request of an amount without a limit.
    pub(super) fn most(&self) -> &Quantity {
        self.limit.as_ref().unwrap_or(&self.request)
    }

    /// Returns this amount with a limit when `default` has one: the limit of `default`, or the request when that is more.
    pub(super) fn with_limit_of(self, default: &Self) -> Self {
        let inherited = || {
            let limit = default.limit.as_ref()?;
            Some(limit.max(&self.request).clone())
        };
        let limit = self.limit.clone().or_else(inherited);
        Self { limit, ..self }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    const ANY: Units = Units {
        suffixes: &["m", "", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"],
        forms: "any",
    };

    fn quantity(text: &str) -> Quantity {
        Quantity::parse(text, &ANY).unwrap()
    }

    #[test]
    fn quantities_compare_by_their_value() {
        for (less, more) in [
            ("20m", "1"),
            ("0.5", "501m"),
            ("64M", "64Mi"),
            ("1023Mi", "1Gi"),
            ("0.1m", "1m"),
        ] {
            assert!(quantity(less) < quantity(more), "{less} {more}");
        }
        for (one, same) in [("1000m", "1"), ("1024Mi", "1Gi"), ("0.1", "100m"), ("1k", "1000")] {
            assert_eq!(quantity(one), quantity(same));
        }
    }

    #[test]
    fn texts_that_are_no_positive_quantity_are_refused() {
        for text in [
            "",
            "0",
            "0Mi",
            "-1",
            "+1",
            "1mi",
            "1MB",
            "1 Mi",
            "Mi",
            ".",
            "1.2.3",
            "1e3",
            "a",
            "9999999999999999",
        ] {
            assert!(Quantity::parse(text, &ANY).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_error_names_the_forms_of_the_resource() {
        for (text, units, forms) in [
            ("64mb", &BYTES, "64Mi"),
            ("64m", &BYTES, "64Mi"),
            ("64Mi", &PROCESSORS, "0.5"),
            ("2k", &PROCESSORS, "500m"),
        ] {
            let error = Quantity::parse(text, units).unwrap_err();
            assert!(
                error.starts_with(&format!("{text:?} is not a quantity: write a number of")),
                "{error}"
            );
            assert!(error.contains(forms), "{error}");
        }
    }

    #[test]
    fn a_limit_is_not_less_than_its_request() {
        let parse = |text| ResourceAmount::parse(text, &ANY).unwrap();
        assert_eq!(parse("64Mi, 128Mi").limit, Some(quantity("128Mi")));
        assert_eq!(
            ResourceAmount::parse("64Mi,63Mi", &ANY).unwrap_err(),
            "the limit 63Mi is less than the request 64Mi"
        );
        assert!(ResourceAmount::parse("64Mi,", &ANY).is_err());
        let default = parse("64Mi,128Mi");
        assert_eq!(parse("100Mi").with_limit_of(&default), parse("100Mi,128Mi"));
        assert_eq!(parse("200Mi").with_limit_of(&default), parse("200Mi,200Mi"));
        assert_eq!(parse("1").with_limit_of(&parse("20m")), parse("1"));
    }
}
