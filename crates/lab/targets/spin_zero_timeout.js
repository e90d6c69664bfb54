// Waits for a job by asking for it in each turn of the event loop: with an immediate pending the loop never sleeps.
const jobs = [];

function lookForJobs() {
  if (jobs.length === 0) setImmediate(lookForJobs);
}

lookForJobs();
console.log("ready");
