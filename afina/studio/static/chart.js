// Charts by uPlot, which ships with the studio.
import uPlot from "./vendor/uPlot.esm.js";

export { uPlot };
