// The page "run".
import { element, getJSON } from "./api.js";

void [element, getJSON];
