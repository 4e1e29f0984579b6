//! The images that pods may choose for their sidecars.

use super::annotations;

/// The first part of the references of images, such as `registry.example.com/aerostack/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ImagePrefix(String);

impl ImagePrefix {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        annotations::image(text).map(Self)
    }

    /// Returns true when the image is the prefix with, at the most, a tag or a digest after it, or lies in the path that the prefix
    /// is. `registry.example.com` has neither the images of `registry.example.com.evil` nor those of `registry.example.com:5000`.
    pub(super) fn contains(&self, image: &str) -> bool {
        let Some(rest) = image.strip_prefix(&self.0) else {
            return false;
        };
        let is_version = rest.starts_with([':', '@']) && !rest.contains('/');
        self.0.ends_with('/') || rest.is_empty() || rest.starts_with('/') || is_version
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_where_a_part_of_the_image_ends() {
        for (prefix, image, is_contained) in [
            (
                "registry.example.com/team/",
                "registry.example.com/team/injector:1",
                true,
            ),
            (
                "registry.example.com/team",
                "registry.example.com/team/injector:1",
                true,
            ),
            (
                "registry.example.com/team",
                "registry.example.com/team2/injector:1",
                false,
            ),
            ("registry.example.com", "registry.example.com/injector", true),
            (
                "registry.example.com",
                "registry.example.com.evil/injector",
                false,
            ),
            (
                "registry.example.com",
                "registry.example.com:5000/injector",
                false,
            ),
            ("r.example/injector", "r.example/injector", true),
            ("r.example/injector", "r.example/injector:2", true),
            ("r.example/injector", "r.example/injector@sha256:00", true),
            ("r.example/injector", "r.example/injector-evil", false),
            ("r.example/injector:1", "r.example/injector:1", true),
            ("r.example/injector:1", "r.example/injector:10", false),
            ("r.example/", "R.example/injector", false),
        ] {
            let parsed = ImagePrefix::parse(prefix).unwrap();
            assert_eq!(parsed.contains(image), is_contained, "{prefix} {image}");
        }
        assert!(ImagePrefix::parse("").is_err() && ImagePrefix::parse("a b").is_err());
    }
}
