// The page "runs".
import { element, getJSON } from "./api.js";

void [element, getJSON];
