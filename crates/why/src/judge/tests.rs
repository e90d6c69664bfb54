//! Observations as they were recorded, and what the judge makes of them.
